"""Recipes: typed settings, read from YAML pages and the command line. Importing this loads no torch.

Each class checks its own ranges; `Recipe` checks what only makes sense together and raises
`InvalidCombination`. Settings under `run` never change results.
"""

from distill.config.checks import InvalidCombination, InvalidValue, RecipeError
from distill.config.compare import content_hash, differences, recipe_dict
from distill.config.data import Columns, Data, Dataset, Masking, Scenes, Views
from distill.config.ensemble import by_teacher, cache_places
from distill.config.load import (
    load_recipe,
    members_named,
    recipe_from_file,
    recipe_from_words,
    recipe_text,
    resolve,
    save_recipe,
)
from distill.config.objective import (
    ClsLoss,
    Clusters,
    Contrastive,
    Features,
    Granularity,
    Objective,
    Patch,
    Prototypes,
)
from distill.config.pages import list_recipes, page_path
from distill.config.recipe import Recipe
from distill.config.student import Head, ImageTower, Student, TextTower
from distill.config.teacher import Member, Teacher
from distill.config.training import TASKS_WITH_TEXT, Evaluate, Optim, Run, TableColumns

__all__ = [
    "TASKS_WITH_TEXT",
    "ClsLoss",
    "Clusters",
    "Columns",
    "Contrastive",
    "Data",
    "Dataset",
    "Evaluate",
    "Features",
    "Granularity",
    "Head",
    "ImageTower",
    "InvalidCombination",
    "InvalidValue",
    "Masking",
    "Member",
    "Objective",
    "Optim",
    "Patch",
    "Prototypes",
    "Recipe",
    "RecipeError",
    "Run",
    "Scenes",
    "Student",
    "TableColumns",
    "Teacher",
    "TextTower",
    "Views",
    "by_teacher",
    "cache_places",
    "content_hash",
    "differences",
    "list_recipes",
    "load_recipe",
    "members_named",
    "page_path",
    "recipe_dict",
    "recipe_from_file",
    "recipe_from_words",
    "recipe_text",
    "resolve",
    "save_recipe",
]
