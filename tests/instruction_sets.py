"""Environments that keep torch from a processor's newest instructions."""

from __future__ import annotations

from pillow_mcquic.engine.device import processor_has

EVERY = {
    "all there are": {},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "sse": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def _there(name: str) -> bool:
    """Whether this processor has what an environment asks torch to use."""
    return name != "avx512" or processor_has("avx512_f")


INSTRUCTION_SETS = {name: environment for name, environment in EVERY.items() if _there(name)}
