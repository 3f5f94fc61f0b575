"""Which options of `dino` do not fit each other."""

from __future__ import annotations

from typing import Any

from medssl.core.options import PluginChoice


def misfit(options: dict[str, Any], backbone: PluginChoice, size: tuple[int, ...], steps: int | None) -> str:
    """Why no run has these options, and what to change; empty if one has."""
    student, teacher = options["temperature"], options["teacher_temperature"][1]
    if teacher > student:
        return (
            f"dino: the teacher ends at the temperature {teacher:g}, above the student's {student:g}, so its targets are flatter "
            "than the student's predictions. Lower teacher_temperature, or raise temperature"
        )
    return ""
