"""The texts that a vision-language model is asked with: one set of files, versioned by what they say."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from string import Template

from dataengine.config import CONF, ConfigError

FOLDER = CONF / "prompts"


@dataclass(frozen=True)
class Prompts:
    """Templates with `$name` for what a clip fills in. What is filled in is never read as a template again."""

    caption: str
    entities: str
    repair: str
    ownership: str

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Prompts:
        """Reads `<question>.md` of each question. Raises `ConfigError` for a missing file or an unknown `$name`."""
        texts = {}
        for name in (field.name for field in fields(cls)):
            file = folder / f"{name}.md"
            try:
                texts[name] = file.read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{file}: a prompt is missing (stages.caption.qwen.prompts): {error}") from error
            known = set(Template((FOLDER / f"{name}.md").read_text(encoding="utf-8")).get_identifiers())
            unknown = set(Template(texts[name]).get_identifiers()) - known
            if unknown or not Template(texts[name]).is_valid():
                raise ConfigError(f"{file}: ${', $'.join(sorted(unknown)) or '…'} means nothing here; write $$ for $")
        return cls(**texts)

    @property
    def all(self) -> str:
        """Everything that is said to the model, for its hash."""
        return "\n\n".join(f"# {field.name}\n{getattr(self, field.name)}" for field in fields(self))

    def ask(self, question: str, **values: object) -> str:
        return Template(getattr(self, question)).substitute({name: str(value) for name, value in values.items()})
