"""Functional programs of GQA questions: a list of operations on earlier results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Program", "Step", "append_step", "as_json", "as_text", "find", "join_programs"]

NOT_THERE = "-"


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of a program.

    Args:
        operation: "select", "filter color", "query", ...
        argument: Argument of the operation.
        dependencies: Indices of the steps whose results it uses.
    """

    operation: str
    argument: str
    dependencies: tuple[int, ...] = ()


Program = tuple[Step, ...]


def find(shape: str, colour: str, object_ids: Sequence[str]) -> Program:
    """Return the program that selects objects of a shape and, unless empty, a colour."""
    select = Step("select", f"{shape} ({','.join(object_ids) or NOT_THERE})")
    return (select, Step("filter color", colour, (0,))) if colour else (select,)


def append_step(program: Program, operation: str, argument: str = "") -> Program:
    """Return the program with one more operation, applied to its result."""
    return (*program, Step(operation, argument, (len(program) - 1,)))


def join_programs(one: Program, other: Program, operation: str, argument: str = "") -> Program:
    """Return both programs with one more operation, applied to their two results."""
    shift = len(one)
    moved = tuple(
        replace(step, dependencies=tuple(at + shift for at in step.dependencies)) for step in other
    )
    last = Step(operation, argument, (shift - 1, shift + len(other) - 1))
    return (*one, *moved, last)


def as_json(program: Program) -> list[dict[str, Any]]:
    """Return the program as in the official field "semantic"."""
    return [
        {
            "operation": step.operation,
            "dependencies": list(step.dependencies),
            "argument": step.argument,
        }
        for step in program
    ]


def as_text(program: Program) -> str:
    """Return the program as in the official field "semanticStr"."""
    return "->".join(
        f"{step.operation}: {step.argument}"
        + (f" {list(step.dependencies)}" if step.dependencies else "")
        for step in program
    )
