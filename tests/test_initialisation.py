"""Where weights start and what is trained: every switch does what it says and the report tells."""

import json

import pytest
import torch
from safetensors.torch import save_file

from distill.config import Head, ImageTower, Student, TextTower
from distill.encoders.dual import DualEncoder, build_dual
from distill.encoders.head import Heads, build_heads
from distill.encoders.initialisation import apply_update_policy, initialise, load_strictly, read_student

IMAGE = {"width": 32, "depth": 3, "num_heads": 2, "patch_size": 8}
TEXT = {"width": 32, "depth": 2, "num_heads": 2, "context_length": 16}
HEAD = {"num_prototypes": 12, "hidden": 16, "bottleneck": 8}


def settings(*, image: dict | None = None, text: dict | None = None, head: dict | None = None) -> Student:
    return Student(
        image=ImageTower(**IMAGE | (image or {})),
        text=TextTower(**TEXT | (text or {})),
        head=Head(**HEAD | (head or {})),
    )


def built(student: Student, *, seed: int, image_size: int = 32, with_cls: bool = True) -> tuple[DualEncoder, Heads]:
    torch.manual_seed(seed)
    dual = build_dual(student, image_size)
    return dual, build_heads(student.head, dual.image.width, with_cls=with_cls, with_patch=True)


def state_of(*modules: torch.nn.Module) -> list[torch.Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


def same(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("part", ["image", "text", "head"])
def test_each_part_alone_starts_from_the_teacher(part):
    student = settings(**{part: {"init": "teacher"}})
    (teacher, teacher_heads), (dual, heads) = built(settings(), seed=1), built(student, seed=2)
    ours, theirs = (
        {"image": one.image, "text": one.text, "head": one_heads}
        for one, one_heads in ((dual, heads), (teacher, teacher_heads))
    )
    before = {name: state_of(module) for name, module in ours.items()}
    rows = initialise(dual, heads, settings=student, teacher=teacher, teacher_heads=teacher_heads)
    for name, row in zip(("image", "text", "head"), rows, strict=True):
        assert row.source == ("teacher" if name == part else "random")
        assert row.left_out == {} and row.resampled == ()
        assert same(state_of(ours[name]), state_of(theirs[name]) if name == part else before[name])
    assert rows[["image", "text", "head"].index(part)].copied == len(before[part])


@pytest.mark.parametrize("folder", ["checkpoint", "run"])
def test_towers_start_from_a_checkpoint_or_the_newest_one_of_a_run(folder, tmp_path):
    (old, _), (new, new_heads) = built(settings(), seed=1), built(settings(), seed=2)
    for step, dual in ((200, old), (1000, new)):
        checkpoint = tmp_path / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir(parents=True)
        tensors = {f"encoder.{name}": value for name, value in dual.state_dict().items()}
        tensors |= {f"heads.{name}": value for name, value in new_heads.state_dict().items()}
        save_file(tensors, checkpoint / "student.safetensors")
    path = str(tmp_path if folder == "run" else checkpoint)
    student = settings(image={"init": path}, text={"init": path})
    dual, heads = built(student, seed=3)
    image_row, text_row, head_row = initialise(dual, heads, settings=student)
    assert same(state_of(dual), state_of(new))
    assert image_row.source == text_row.source == path and head_row.source == "random"
    assert image_row.left_out == text_row.left_out == {}


def test_folders_without_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a run nor a checkpoint folder"):
        read_student(tmp_path)
    save_file({"heads.x": torch.zeros(1)}, tmp_path / "student.safetensors")
    student = settings(text={"init": str(tmp_path)})
    with pytest.raises(ValueError, match=r"student.text.init: .* holds no text tower"):
        initialise(*built(student, seed=0), settings=student)
    (tmp_path / "student.safetensors").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        read_student(tmp_path)


def test_a_teacher_that_lacks_the_part_is_refused():
    for part, message in (("image", "no image tower"), ("text", "no text tower"), ("head", "no projection head")):
        student = settings(**{part: {"init": "teacher"}})
        teacher = None if part == "image" else DualEncoder(built(settings(), seed=1)[0].image, None)
        with pytest.raises(ValueError, match=message):
            initialise(*built(student, seed=0), settings=student, teacher=teacher)


def test_a_tensor_of_another_shape_is_named_and_nothing_is_copied():
    student = settings(image={"init": "teacher", "width": 48}, text={"width": 32})
    (teacher, _), (dual, heads) = built(settings(), seed=1), built(student, seed=2)
    before = state_of(dual)
    message = r"student.image from teacher: mask_token should have shape \[1, 1, 48\], got \[1, 1, 32\]"
    with pytest.raises(ValueError, match=message):
        initialise(dual, heads, settings=student, teacher=teacher)
    assert same(before, state_of(dual))
    student = settings(head={"init": "teacher", "num_prototypes": 24})
    dual, heads = built(student, seed=2)
    with pytest.raises(ValueError, match=r"members.shared.directions should have shape \[24, 8\], got \[12, 8\]"):
        initialise(dual, heads, settings=student, teacher=teacher, teacher_heads=built(settings(), seed=1)[1])


def test_positions_of_another_grid_are_resampled_and_reported():
    student = settings(image={"init": "teacher"})
    (teacher, _), (dual, heads) = built(settings(), seed=1, image_size=32), built(student, seed=2, image_size=48)
    row = initialise(dual, heads, settings=student, teacher=teacher)[0]
    assert row.resampled == ("model.pos_embed",) and row.left_out == {}
    assert row.copied == len(teacher.image.state_dict()) - 1
    with torch.no_grad():
        pixels = torch.rand(1, 3, 48, 48)
        torch.testing.assert_close(dual.image(pixels).patches, teacher.image(pixels).patches, atol=1e-5, rtol=0)


def test_a_teacher_with_one_cls_token_leaves_the_second_as_it_is():
    student = settings(image={"init": "teacher", "num_cls": 2})
    (teacher, _), (dual, heads) = built(settings(image={"num_cls": 1}), seed=1), built(student, seed=2)
    register, positions = dual.image.model.reg_token.clone(), dual.image.model.pos_embed.clone()
    row = initialise(dual, heads, settings=student, teacher=teacher)[0]
    assert row.left_out == {"model.reg_token": "not in the source, keeps its random start"}
    assert torch.equal(dual.image.model.reg_token, register)
    ours, theirs = dual.image.model.pos_embed, teacher.image.model.pos_embed
    assert torch.equal(ours[:, 0], theirs[:, 0]) and torch.equal(ours[:, 2:], theirs[:, 1:])
    assert torch.equal(ours[:, 1], positions[:, 1])


def test_tensors_only_one_side_has_are_reported():
    student = settings(image={"init": "teacher", "depth": 2})
    (teacher, _), (dual, heads) = built(settings(), seed=1), built(student, seed=2)
    row = initialise(dual, heads, settings=student, teacher=teacher)[0]
    assert set(row.left_out.values()) == {"the student has no such tensor"}
    assert all(name.startswith("model.blocks.2.") for name in row.left_out) and len(row.left_out) == 12
    assert "left out: model.blocks.2.attn.proj.bias: the student has no such tensor" in str(row)


@pytest.mark.parametrize(("teachers_shared", "students_shared"), [(True, False), (False, True)])
def test_heads_are_copied_by_role(teachers_shared, students_shared):
    student = settings(head={"init": "teacher", "shared": students_shared})
    teacher, teacher_heads = built(settings(head={"shared": teachers_shared}), seed=1)
    dual, heads = built(student, seed=2)
    row = initialise(dual, heads, settings=student, teacher=teacher, teacher_heads=teacher_heads)[2]
    assert row.left_out == {}
    assert same(state_of(heads.patch), state_of(teacher_heads.patch))
    if not students_shared:
        assert same(state_of(heads.cls), state_of(teacher_heads.cls))


def test_a_head_the_teacher_never_had_stays_random():
    student = settings(head={"init": "teacher", "shared": False})
    teacher, teacher_heads = built(settings(head={"shared": False}), seed=1, with_cls=False)
    dual, heads = built(student, seed=2)
    before = state_of(heads.cls)
    row = initialise(dual, heads, settings=student, teacher=teacher, teacher_heads=teacher_heads)[2]
    assert same(state_of(heads.cls), before)
    assert all(name.startswith("members.cls.") for name in row.left_out) and len(row.left_out) == 7


def trained_names(module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def policy(student: Student):
    dual, heads = built(student, seed=0)
    rows = initialise(dual, heads, settings=student)
    return dual, heads, apply_update_policy(dual, heads, settings=student, report=rows)


@pytest.mark.parametrize("part", ["image", "text"])
def test_update_trains_all_nothing_or_the_last_blocks(part):
    everything = trained_names(policy(settings())[0])
    dual, _, _ = policy(settings(**{part: {"update": "freeze"}}))
    assert trained_names(dual) == {name for name in everything if not name.startswith(part)}
    dual, _, _ = policy(settings(**{part: {"update": "last_k", "last_k": 1}}))
    block, after = {
        "image": ("model.blocks.2.", ("model.norm.",)),
        "text": ("model.transformer.resblocks.1.", ("model.ln_final.", "model.text_projection")),
    }[part]
    expected = {name for name, _ in getattr(dual, part).named_parameters() if name.startswith((block, *after))}
    assert trained_names(getattr(dual, part)) == expected and len(expected) > 12


def test_the_report_counts_what_is_trained():
    dual, heads, rows = policy(settings(image={"update": "freeze"}, text={"update": "last_k", "last_k": 1}))
    image, text, head = rows
    assert [row.part for row in rows] == ["image", "text", "heads"]
    assert image.trained == 0 and image.parameters == sum(value.numel() for value in dual.image.parameters())
    assert 0 < text.trained < text.parameters
    assert head.trained == head.parameters == sum(value.numel() for value in heads.parameters())
    assert "0 of" in str(image)
    assert json.loads(json.dumps(text.as_dict()))["trained"] == text.trained


def test_an_encoder_alone_has_one_row():
    student = settings(text={"kind": "none"})
    dual, _ = built(student, seed=0)
    rows = apply_update_policy(dual, None, settings=student, report=initialise(dual, None, settings=student))
    assert [row.part for row in rows] == ["image"]


def test_more_last_blocks_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"student.image.last_k is 4, but the tower has 3 blocks"):
        policy(settings(image={"update": "last_k", "last_k": 4}))


def test_loading_strictly_names_what_does_not_fit():
    (dual, _), (other, _) = built(settings(), seed=0), built(settings(), seed=1)
    tensors = other.state_dict()
    load_strictly(dual, tensors, what="student")
    assert same(state_of(dual), state_of(other))
    with pytest.raises(ValueError, match=r"student does not fit the model: missing image.mask_token; surplus extra"):
        load_strictly(
            dual,
            {name: value for name, value in tensors.items() if name != "image.mask_token"} | {"extra": torch.zeros(1)},
            what="student",
        )
    with pytest.raises(ValueError, match=r"student: image.mask_token should have shape \[1, 1, 32\], got \[32\]"):
        load_strictly(dual, tensors | {"image.mask_token": torch.zeros(32)}, what="student")
