"""Recipes: all that determines a training run, as YAML; shipped ones lie beside this file."""

from vl_lst.recipes.reading import fitting_recipe, read_recipe_file, shipped_recipes
from vl_lst.recipes.resolving import dump_recipe, load_recipe, parse_override, resolve_recipe
from vl_lst.recipes.schema import Recipe

__all__ = [
    "Recipe",
    "dump_recipe",
    "fitting_recipe",
    "load_recipe",
    "parse_override",
    "read_recipe_file",
    "resolve_recipe",
    "shipped_recipes",
]
