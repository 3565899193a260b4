"""What a model is, in one paragraph, and what it is not good for."""

from distill.publish.card.facts import Facts

HEARD = {
    "masked": "the hidden patches only",
    "visible": "the visible patches only",
    "all": "every patch",
}
CLS_TOKENS = {1: "a CLS token", 2: "two CLS tokens"}
CAPTIONS = {"alt": "alt-text"}
"""Granularities whose names say little by themselves."""
METHODS = {"masked": " (iBOT)", "all": " (iBOT++)"}
"""Of losses on prototypes, where patches are hidden."""


def opening(facts: Facts, *, with_text: bool) -> str:
    """What it is, in one paragraph; `with_text` where what is published holds its text tower."""
    towers, recipe = facts.towers, facts.recipe
    millions = {name: f"{count / 1e6:.1f} M parameters" for name, count in towers.parameters.items()}
    kinds = "a pair of encoders, for images and for texts" if with_text else "an image encoder"
    sizes = {"patch": "patches of {} pixels", "width": "width {}", "depth": "depth {}"}
    listed = [sizes[name].format(towers.sizes[name]) for name in sizes if name in towers.sizes]
    of_text = " The text tower that it was trained beside is not here." if facts.with_text else ""
    if with_text:
        of_text = f" The text tower ({towers.text}, {millions['text']}) reads up to {towers.context_length} tokens."
    gives = "one token for the whole picture and one for every place of its last feature map"
    if not towers.is_convnet:
        gives = f"{_cls_tokens(facts)} and one token for every patch"
    unfinished = f", of {recipe.optim.steps:,} that the whole training has," if facts.step < recipe.optim.steps else ""
    hidden = f"{100 * recipe.masking.ratio:.0f} % of the patches hidden" if recipe.masking.ratio else "nothing hidden"
    plural = "" if facts.step == 1 else "s"
    family, _, name = towers.model.rpartition(":")
    return (
        f"{facts.title} is {kinds}. The image tower is {f'`{name}` of {family}' if family else f'a `{name}`'} with "
        f"{', '.join(listed)} ({millions['image']}), trained at {recipe.data.image_size} × {recipe.data.image_size} "
        f"pixels; it gives {gives}.{of_text} {_how(facts)} for {facts.step:,} step{plural}{unfinished} of "
        f"{recipe.data.batch_size} pictures with {hidden}; {_heard(facts)}.{_side(facts)}"
    )


def limits(facts: Facts, *, with_text: bool) -> str:
    recipe, points = facts.recipe, []
    if recipe.data.source == "scenes":
        points.append("It was trained on procedurally drawn scenes only: expect little of it on photographs.")
    side, views = recipe.data.image_size, recipe.data.views
    crops = f", with local crops of {views.local_size}" if views.num_local else ""
    points.append(f"It was trained at {side} × {side} pixels{crops}; other sizes were no part of that.")
    if not with_text:
        points.append("It has no text tower: pictures cannot be compared with words.")
    if facts.is_distilled:
        origin = "the model that it started as" if facts.is_taught_teacher else "its teacher"
        points.append(f"What {origin} gets wrong, or has learnt from its own data, it may have taken over.")
    if not facts.results:
        points.append("Nothing was measured of it.")
    points.append("It was not tested for bias, safety, or any use in which a mistake harms somebody.")
    return "\n".join(f"- {point}" for point in points)


def _cls_tokens(facts: Facts) -> str:
    """With what they learnt from: a student without a text tower has none that read captions."""
    contrast, count = facts.recipe.objective.contrastive, facts.towers.num_cls
    read = ""
    if count == 2 and _read_captions(facts):
        first, second = (
            " and ".join(CAPTIONS.get(kind, kind) for kind in kinds) for kinds in (contrast.first, contrast.second)
        )
        read = f" (CLS 1 learnt from {first} captions, CLS 2 from {second} ones)"
    return CLS_TOKENS[count] + read


def _read_captions(facts: Facts) -> bool:
    """Whether it is the model of which a contrastive loss compared pictures and captions."""
    return facts.with_text and facts.recipe.objective.contrastive.weight > 0 and not facts.is_taught_teacher


def _how(facts: Facts) -> str:
    objective = facts.recipe.objective
    teachers = " and ".join(f"`{each.name}`" for each in facts.sources if "teacher" in each.role)
    if facts.is_taught_teacher:
        parts = " and ".join(facts.recipe.teacher.trainable)
        return f"It is {teachers}, of which {parts} went on learning as the teacher of a student,"
    captions = "by comparing pictures with captions" if _read_captions(facts) else ""
    if facts.is_distilled:
        return f"It was distilled from {teachers}{f' and trained {captions}' if captions else ''}"
    if objective.patch.weight or objective.cls.weight:
        return f"It was pretrained by self-distillation{f' and {captions}' if captions else ''}"
    return "It was trained by comparing pictures with captions"


def _side(facts: Facts) -> str:
    """Whose weights these are, where they are not the student's."""
    if facts.side == "student" or facts.is_taught_teacher:
        return ""
    text = " beside the text tower as it was trained, which has no average" if facts.with_text else ""
    return f" These are the weights of the moving average of the image tower, its momentum teacher{text}."


def _heard(facts: Facts) -> str:
    patch, hides = facts.recipe.objective.patch, facts.recipe.masking.ratio > 0
    if not patch.weight or patch.supervise == "none":
        return "there was no loss on patches"
    method = METHODS.get(patch.supervise, "") if hides and patch.target != "features" else ""
    return f"its patch loss was on {HEARD[patch.supervise]}{method}"
