"""Published peaks."""

import pytest

from core.hardware import CHIPS, chip_of


@pytest.mark.parametrize(
    ("device_kind", "name", "bf16_tflops"),
    [
        ("TPU v4", "TPU v4", 275),
        ("TPU v5 lite", "TPU v5e", 197),
        ("TPU v5", "TPU v5p", 459),
        ("TPU v6 lite", "TPU v6e", 918),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", 989.5),
        ("NVIDIA H200", "H200", 989.5),
    ],
)
def test_chip_of_what_jax_calls_it_is_found(device_kind: str, name: str, bf16_tflops: float) -> None:
    chip = chip_of(device_kind)
    assert chip is not None
    assert (chip.name, chip.bf16_flops_s) == (name, bf16_tflops * 1e12)


@pytest.mark.parametrize("device_kind", ["cpu", "", "TPU v99", "NVIDIA H100 PCIe"])
def test_chip_of_anything_without_a_published_peak_is_none(device_kind: str) -> None:
    assert chip_of(device_kind) is None


def test_chips_have_sources_sane_peaks_and_names_of_their_own() -> None:
    kinds = [kind for chip in CHIPS for kind in chip.device_kinds]
    assert len(set(kinds)) == len(kinds)
    for chip in CHIPS:
        assert "docs" in chip.source or "datasheet" in chip.source
        assert chip.bf16_flops_s <= chip.int8_ops_s <= 2.01 * chip.bf16_flops_s
        # A token per byte: between these a roofline has its ridge on every accelerator of these years.
        assert 100 < chip.bf16_flops_s / chip.hbm_bytes_s < 600
        assert chip.hbm_bytes >= 16 * 10**9
