"""The teacher: the same tokens from every format of file, and refusals of all others."""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models.layers.position import resize_table
from itpn_ray.storage import open_store
from itpn_ray.tasks.clip_pretraining.config import CLIP_BASE, CLIP_LARGE, teacher_input
from itpn_ray.tasks.clip_pretraining.teacher import (
    CLIP_MEAN,
    CLIP_STD,
    load_teacher,
    teacher_digest,
)
from tests.pretrain.clip_net import Clip, make_clip


def pixels(size: int = 64, count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def expected(clip: Clip, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        tokens = clip((images.float() / 255 - mean) / std)
    return F.layer_norm(tokens, tokens.shape[-1:])


def save_torchscript(clip: Clip, path: Path) -> None:
    with warnings.catch_warnings():
        # Which of the two it is depends on the version of PyTorch.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(clip), path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("teacher")
    clip = make_clip()
    torch.save(clip.state_dict(), folder / "openai.pt")
    torch.save({"state_dict": clip.state_dict(), "epoch": 3}, folder / "nested.bin")
    save_torchscript(clip, folder / "archive.pt")
    timm_names = load_teacher(str(folder / "openai.pt"), "clip_nano", 64).network.state_dict()
    save_file(timm_names, folder / "timm.safetensors")
    torch.save(timm_names, folder / "timm.pt")
    return {path.stem + path.suffix: str(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["openai.pt", "nested.bin", "archive.pt", "timm.safetensors", "timm.pt"]
)
def test_every_format_gives_the_same_tokens(files: dict[str, str], name: str) -> None:
    images = pixels()
    tokens = load_teacher(files[name], "clip_nano", 64)(images)
    assert tokens.dtype == torch.float16
    torch.testing.assert_close(tokens.float(), expected(make_clip(), images), rtol=2e-3, atol=2e-3)


def test_half_precision_archive(tmp_path: Path) -> None:
    """OpenAI's archives hold float16."""
    save_torchscript(make_clip().half(), tmp_path / "half.pt")
    tokens = load_teacher(str(tmp_path / "half.pt"), "clip_nano", 64)(pixels())
    reference = expected(make_clip().half().float(), pixels())
    torch.testing.assert_close(tokens.float(), reference, rtol=2e-3, atol=2e-3)


def test_tokens_do_not_depend_on_the_batch(files: dict[str, str]) -> None:
    teacher = load_teacher(files["timm.pt"], "clip_nano", 64)
    images = pixels(count=70)
    assert torch.allclose(teacher(images)[66:], teacher(images[66:]), atol=2e-3)


def test_positions_are_resized_to_the_students_patches(files: dict[str, str]) -> None:
    large = load_teacher(files["openai.pt"], "clip_nano", 96)
    assert large(pixels(96)).shape == (3, 36, 32)
    clip = make_clip()
    table = clip.visual.positional_embedding[None, 1:].detach()
    torch.testing.assert_close(
        large.network.pos_embed[:, 1:].data, resize_table(table, (6, 6), 0.1)
    )


def test_input_has_a_patch_for_each_of_the_students() -> None:
    assert [teacher_input(CLIP_BASE, 224), teacher_input(CLIP_LARGE, 224)] == [224, 196]
    assert teacher_input(CLIP_LARGE, 256) == 224


def test_another_view_is_resized(files: dict[str, str]) -> None:
    teacher = load_teacher(files["openai.pt"], "clip_nano", 64)
    smooth = torch.arange(128, dtype=torch.uint8).expand(1, 3, 128, 128).contiguous()
    near = teacher(smooth).float()
    assert near.shape == (1, 16, 32)
    halved = F.avg_pool2d(smooth.float(), 2).round().to(torch.uint8)
    assert F.cosine_similarity(near, teacher(halved).float(), dim=-1).min() > 0.99


def test_remote_file(files: dict[str, str], s3_uri: str) -> None:
    open_store(s3_uri).put_file(Path(files["timm.pt"]), "clip/timm.pt")
    remote = f"{s3_uri}/clip/timm.pt"
    tokens = load_teacher(remote, "clip_nano", 64)(pixels())
    assert torch.equal(tokens, load_teacher(files["timm.pt"], "clip_nano", 64)(pixels()))
    assert teacher_digest(remote) == teacher_digest(files["timm.pt"])
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        load_teacher(f"{s3_uri}/clip/absent.pt", "clip_nano", 64)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "there is no such teacher file"),
        (b"not a file of weights", "is neither"),
        ({"head.weight": torch.zeros(3, 3)}, "are missing"),
        ([torch.zeros(3)], "it holds a list"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: object, cause: str) -> None:
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=cause):
        load_teacher(str(path), "clip_nano", 64)


def test_another_architecture_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"is no {CLIP_BASE}"):
        load_teacher(files["timm.pt"], CLIP_BASE, 64)
    classifier = torch.load(files["timm.pt"], weights_only=True)
    classifier["head.weight"] = torch.zeros(1000, 64)
    torch.save(classifier, tmp_path / "classifier.pt")
    with pytest.raises(CheckpointError, match=r"head\.weight is \(1000, 64\), not \(32, 64\)"):
        load_teacher(str(tmp_path / "classifier.pt"), "clip_nano", 64)


def test_no_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--task\.teacher FILE"):
        load_teacher("", "clip_nano", 64)


def test_openai_archive_wants_quick_gelu(files: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="Use vit_base_patch16_clip_quickgelu_224"):
        load_teacher(files["archive.pt"], "vit_base_patch16_clip_224", 64)


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def forge(path: Path, root: bytes, data: bytes = b"\0" * 8) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", pickle.dumps(()))
        archive.writestr("m/data.pkl", root)
        archive.writestr("m/data/0", data)
    return str(path)


def tensor_pickle(size: tuple[int, ...], key: str = "0") -> bytes:
    """What TorchScript writes for a module with one float32 tensor of this size."""

    class Writer(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None

    class Rebuilt:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = ("storage", torch.FloatStorage, key, "cpu", 2)
            return torch._utils._rebuild_tensor_v2, (storage, 0, size, (1,), False, {})

    out = io.BytesIO()
    Writer(out, protocol=2).dump(Rebuilt())
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, suffix: str) -> None:
    mark = tmp_path / "executed"
    plain = tmp_path / f"plain{suffix}"
    torch.save({"visual.proj": Bomb(mark)}, plain)
    archive = forge(tmp_path / f"archive{suffix}", pickle.dumps(Bomb(mark), protocol=2))
    for path in (str(plain), archive):
        with pytest.raises(CheckpointError):
            load_teacher(path, "clip_nano", 64)
    assert not mark.exists()


@pytest.mark.parametrize(
    "root",
    [
        tensor_pickle((3,)),
        tensor_pickle((2,), key="../../etc/passwd"),
        tensor_pickle((2,), key="7"),
        b"garbage",
        pickle.dumps({"no": "module"}, protocol=2),
    ],
    ids=["beyond its storage", "outside", "absent", "no pickle", "no module"],
)
def test_forged_archives_are_refused(tmp_path: Path, root: bytes) -> None:
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_teacher(forge(tmp_path / "forged.pt", root), "clip_nano", 64)
