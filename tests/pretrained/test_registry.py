from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from mrl.errors import InputError
from mrl.pretrained import VoxCeleb1EER, find_by_name, find_checkpoint, list_pretrained
from mrl.pretrained.registry import find_by_address, find_by_file_name


def test_every_released_file_has_one_entry() -> None:
    names = [checkpoint.name for checkpoint in list_pretrained()]
    expected = {f"b{size}-vox2-{train_type}" for size in range(7) for train_type in ("ptn", "ft_lm")}
    expected |= {f"{size}-{rest}" for size in "SM" for rest in ("vb2-ptn", "vb2+vox2+cnc-ft_mix")}
    expected |= {f"redimnet2-b{size}-vox2-{train_type}" for size in range(7) for train_type in ("ptn", "lm")}
    expected |= {f"redimnet2-{size}-vb2+vox2+cnc2_v0-{train_type}" for size in ("b3", "b6") for train_type in ("ptn", "lm")}
    expected |= {f"redimnet2-b6-vb2+vox2_v0-{train_type}" for train_type in ("ptn", "lm", "dis")}
    assert len(names) == 18 + 21
    assert set(names) == expected


def test_addresses_are_the_official_ones() -> None:
    release = "https://github.com/IDRnD/ReDimNet/releases/download/latest/"
    assert find_checkpoint("b2", "ft_lm", "vox2").url == release + "b2-vox2-ft_lm.pt"
    assert find_checkpoint("M", "ft_mix", "vb2+vox2+cnc").url == release + "M-vb2+vox2+cnc-ft_mix.pt"
    second = "https://github.com/PalabraAI/redimnet2/releases/download/v1.0.0/"
    assert find_checkpoint("redimnet2-b0", "ptn", "vox2").url == second + "b0-vox2-ptn.pt"
    assert find_checkpoint("redimnet2-b6", "dis").url == second + "b6-vb2%2Bvox2_v0-dis.pt"


def test_files_of_two_families_with_one_name_are_kept_apart() -> None:
    first, second = find_checkpoint("b6", "ptn"), find_checkpoint("redimnet2-b6", "ptn", "vox2")
    assert first.released_name == second.released_name == "b6-vox2-ptn.pt"
    assert (first.file_name, second.file_name) == ("b6-vox2-ptn.pt", "redimnet2-b6-vox2-ptn.pt")
    assert find_by_file_name("b6-vox2-ptn.pt") == first
    assert find_by_file_name("b6-vox2-ptn.pt", "redimnet2") == find_by_address(second.url) == second
    assert find_by_file_name("b6-vox2-lm.pt") == find_checkpoint("redimnet2-b6")
    assert find_by_address("https://mirror.example/b6-vb2%2Bvox2_v0-lm.pt") == find_checkpoint(
        "redimnet2-b6", "lm", "vb2+vox2_v0"
    )


def test_figures_of_the_second_generation() -> None:
    best = find_checkpoint("redimnet2-b6", "lm", "vb2+vox2_v0")
    assert best.eer == VoxCeleb1EER(0.23, 0.35, 0.67)
    assert dict(best.other_eers) == {"Vox1-B": 0.89, "SITW": 0.74, "VOiCES": 2.55, "CN-Celeb": 7.49}
    assert best.sha256 == "e0a7d340a92f798720d1208949aa6a6bd0cddcb0ba7d4cec33596a17a484e6a2"
    assert find_checkpoint("redimnet2-b3").eer == VoxCeleb1EER(0.42, 0.66, 1.22)
    assert {checkpoint.family for checkpoint in list_pretrained()} == {"redimnet", "redimnet2"}


def test_figures() -> None:
    b2 = find_checkpoint("b2", "ft_lm", "vox2")
    assert b2.eer == VoxCeleb1EER(0.57, 0.76, 1.32)
    assert b2.eer_as_norm == VoxCeleb1EER(0.52, 0.74, 1.27)
    assert (b2.num_bytes, b2.num_parameters, b2.num_parameters_exact) == (20_582_650, 5_067_057, True)
    assert b2.sha256 == "c9b6bb2f6747caa28a41eaf2e372d66b0d1563baef186d18f5e99abd5e71e06f"
    mixed = find_checkpoint("M", "ft_mix", "vb2+vox2+cnc")
    assert mixed.eer == VoxCeleb1EER(0.835, 0.745, 1.284)
    assert dict(mixed.other_eers) == {"SITW": 1.203, "VOiCES": 2.703, "CN-Celeb": 7.474}
    assert mixed.eer_as_norm is None and mixed.sha256 is None


def test_unpublished_figures_are_none() -> None:
    for checkpoint in list_pretrained(train_type="ptn", dataset="vox2"):
        assert checkpoint.eer is None and checkpoint.eer_as_norm is None


def test_only_weights_from_voxblink2_are_non_commercial() -> None:
    for checkpoint in list_pretrained():
        assert checkpoint.non_commercial == ("vb2" in checkpoint.dataset)
        assert checkpoint.sample_rate == 16000


def test_entries_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        list_pretrained()[0].sha256 = "0"  # type: ignore[misc]


def test_filters() -> None:
    assert [checkpoint.name for checkpoint in list_pretrained(model_name="b5")] == ["b5-vox2-ptn", "b5-vox2-ft_lm"]
    assert {checkpoint.model_name for checkpoint in list_pretrained(dataset="vb2")} == {"S", "M"}


def test_missing_combination_lists_what_exists_nearest_first() -> None:
    with pytest.raises(InputError) as caught:
        find_checkpoint("b3", "ft_mix", "vb2+vox2+cnc")  # promised once, never released
    message = str(caught.value)
    assert "\n" not in message
    listed = message.partition("nearest first: ")[2].split(", ")
    assert listed[0] in ("b3-vox2-ft_lm", "b3-vox2-ptn")
    assert set(listed) == {checkpoint.name for checkpoint in list_pretrained()}


def test_names_left_out_mean_the_fine_tuned_one() -> None:
    for model_name, name in (("b2", "b2-vox2-ft_lm"), ("S", "S-vb2+vox2+cnc-ft_mix"), ("redimnet2-b3", "redimnet2-b3-vox2-lm")):
        assert find_checkpoint(model_name).name == name
    assert find_checkpoint("redimnet2-b3", "ptn", "vb2+vox2+cnc2_v0").train_type == "ptn"
    listed = r"model_name='redimnet2-b0', dataset='vb2\+vox2_v0'; released .*: redimnet2-b6-vb2\+vox2_v0-"
    with pytest.raises(InputError, match=listed):
        find_checkpoint("redimnet2-b0", dataset="vb2+vox2_v0")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("B2", "b2-vox2-ft_lm"), ("b2-vox2-ftlm", "b2-vox2-ft_lm"), ("m-vb2-ptn", "M-vb2-ptn"), ("redimnet2-b7", "redimnet2-b")],
)
def test_misspelt_name_has_its_neighbour_first(wrong: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        find_by_name(wrong)
    first = str(caught.value).partition("nearest first: ")[2].split(", ")[0]
    assert first.startswith(nearest.split("-")[0])
    if "-vox2" in wrong or "-vb2" in wrong:
        assert first == nearest


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("b2", "b2-vox2-ft_lm"),
        ("M", "M-vb2+vox2+cnc-ft_mix"),
        ("S", "S-vb2+vox2+cnc-ft_mix"),
        ("b0-vox2-ptn", "b0-vox2-ptn"),
        ("b0-vox2-ptn.pt", "b0-vox2-ptn"),
        ("redimnet2-b6", "redimnet2-b6-vox2-lm"),
        ("redimnet2-b6-vb2+vox2_v0-dis", "redimnet2-b6-vb2+vox2_v0-dis"),
    ],
)
def test_short_names(name: str, full: str) -> None:
    assert find_by_name(name).name == full


def test_listing_needs_no_torch() -> None:
    code = "import sys; from mrl.pretrained import list_pretrained; list_pretrained(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
