"""What a model is, in one paragraph, and what it is not good for."""

from distill.publish.card.facts import Facts

HEARD = {
    "masked": "the hidden patches only",
    "visible": "the visible patches only",
    "all": "every patch",
}
CLS_TOKENS = {1: "a CLS token", 2: "two CLS tokens (1 for short captions, 2 for detailed ones)"}
METHODS = {"masked": " (iBOT)", "all": " (iBOT++)"}
"""Of losses on prototypes, where patches are hidden."""


def opening(facts: Facts) -> str:
    """What it is, in one paragraph."""
    tower, text, recipe = facts.recipe.student.image, facts.recipe.student.text, facts.recipe
    millions = {name: f"{count / 1e6:.1f} M parameters" for name, count in facts.parameters.items()}
    kinds = "a pair of encoders, for images and for texts" if facts.with_text else "an image encoder"
    sizes = {"patches of {} pixels": tower.patch_size, "width {}": tower.width, "depth {}": tower.depth}
    named = [f"`{tower.model}`", *(words.format(value) for words, value in sizes.items() if value is not None)]
    of_text = ""
    if facts.with_text:
        of_text = f" The text tower ({text.kind}, {millions['text']}) reads up to {text.context_length} tokens."
    gives = "one token for the whole picture and one for every place of its last feature map"
    if not facts.is_convnet:
        gives = f"{CLS_TOKENS[tower.num_cls]} and one token for every patch"
    hidden = f"{recipe.masking.ratio:.0%} of the patches hidden" if recipe.masking.ratio else "nothing hidden"
    side = " These are the weights of that moving average." if facts.side == "teacher" else ""
    return (
        f"{facts.title} is {kinds}: {', '.join(named)} ({millions['image']}), trained at {recipe.data.image_size} × "
        f"{recipe.data.image_size} pixels. It gives {gives}.{of_text} It was {_how(facts)} for {facts.step:,} steps of "
        f"{recipe.data.batch_size} pictures with {hidden}; {_heard(facts)}.{side}"
    )


def limits(facts: Facts) -> str:
    recipe, points = facts.recipe, []
    if recipe.data.source == "scenes":
        points.append("It has seen procedurally drawn scenes only: what it makes of photographs means little.")
    side = recipe.data.image_size
    points.append(f"It was trained at {side} × {side} pixels; pictures of other sizes were no part of that.")
    if not facts.with_text:
        points.append("It has no text tower: pictures cannot be compared with words.")
    if facts.is_distilled:
        points.append("What its teacher gets wrong, or has learnt from its own data, it may have taken over.")
    if not facts.results:
        points.append("Nothing was measured of it.")
    points.append("It was not tested for bias, safety, or any use in which a mistake harms somebody.")
    return "\n".join(f"- {point}" for point in points)


def _how(facts: Facts) -> str:
    objective = facts.recipe.objective
    if facts.is_distilled:
        return f"distilled from {' and '.join(f'`{each.name}`' for each in facts.sources if 'teacher' in each.role)}"
    return (
        "pretrained by self-distillation" if objective.patch.weight or objective.cls.weight else "trained on captions"
    )


def _heard(facts: Facts) -> str:
    patch, hides = facts.recipe.objective.patch, facts.recipe.masking.ratio > 0
    if not patch.weight or patch.supervise == "none":
        return "no loss was on patches"
    method = METHODS.get(patch.supervise, "") if hides and patch.target != "features" else ""
    return f"its patch loss heard {HEARD[patch.supervise]}{method}"
