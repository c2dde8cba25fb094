"""Recipes: all settings of a training run, as YAML; bundled ones are in this folder."""

from vl_lst.bundled import bundled_recipes
from vl_lst.recipes.partial import PartialRecipe, complete_recipe
from vl_lst.recipes.reading import default_recipe, read_recipe_file
from vl_lst.recipes.resolving import (
    dump_recipe,
    load_recipe,
    parse_override,
    resolve_recipe,
    resolve_zero_shot_recipe,
)
from vl_lst.recipes.schema import Recipe
from vl_lst.recipes.zero_shot import ZeroShotRecipe

__all__ = [
    "PartialRecipe",
    "Recipe",
    "ZeroShotRecipe",
    "bundled_recipes",
    "complete_recipe",
    "default_recipe",
    "dump_recipe",
    "load_recipe",
    "parse_override",
    "read_recipe_file",
    "resolve_recipe",
    "resolve_zero_shot_recipe",
]
