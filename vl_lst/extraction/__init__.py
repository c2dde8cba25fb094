"""Extraction of a backbone's states into a file, from which a run trains without the backbone."""

from vl_lst.extraction.states import StatesResult, extract_states

__all__ = ["StatesResult", "extract_states"]
