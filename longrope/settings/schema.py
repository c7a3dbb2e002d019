"""The JSON schema and config/README.md, generated from the settings models.

Produces  workflow/schemas/config.schema.json   every key, closed against unknown ones
          config/README.md                      the same as tables, for people

Run `python -m longrope.settings.schema --write` after a change of a setting; `--check` fails on a drift.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from longrope.settings.config import Config

ROOT = Path(__file__).parents[2]
SCHEMA_PATH = Path("workflow/schemas/config.schema.json")
README_PATH = Path("config/README.md")

Schema = Mapping[str, object]

OPENING = """\
# Settings

One YAML file describes one experiment. It holds the choices that change results, and where these stand
(`results`); devices and workers belong to the profiles in `workflow/profiles/` and to the command line.

- **Change a value**: copy a file of this folder, edit it, and run
  `snakemake --configfile config/mine.yaml`. Results are stored under what made them, so a change
  reruns the stages it reaches and nothing else, and going back costs nothing. An unknown or
  misspelt key is refused by name.
- **Add a model**: copy the file of a similar model and set `model`: either `path`, a folder saved
  by transformers with safetensors weights, or `hub`, a repository with the 40-digit commit that
  pins it. `original_length` is the context window it was trained with.
- **Add a corpus**: one entry under `corpora` with a `source` of kind `hub` (Parquet or JSON-lines
  files of a dataset repository, pinned by commit, column named by `column`; loader scripts are
  never run), `local` or `package` (documents inside pinned packages, listed in a catalogue). Refer
  to it by name in `search.documents`, `finetune.documents` or `evaluate.perplexity.corpora`. Say in
  `stand_in` what the texts are when they are not the corpus itself.
- **Use your own texts**: name the files of each split; a `.txt` file is one document, a line of
  `.jsonl`, an object of a `.json` array or a row of `.parquet` is one each; all but Parquet also
  compressed (`.gz`, `.zst`). Hub files are named and read alike. A folder stands
  for all such files below it, a pattern for the files it matches, where `**` is any number of
  folders; neither finds hidden files. The case of an end does not matter. Rows and files without
  text are skipped and counted (`empty_rows`). The text of a special token (`<s>`) is text, not that
  token, unless the corpus says `special_tokens: token`. Files are read in the order of their names,
  and their names and contents are in the digest: a file more, or another name, is another corpus.

  ```yaml
  corpora:
    mine:
      source:
        kind: local
        files:
          train: [texts/train]
          validation: [texts/held-out.jsonl, "texts/others/**/*.txt"]
  ```

The tables below are generated from `longrope/settings/`; after a change there run
`python -m longrope.settings.schema --write`.
"""


def schema_text() -> str:
    """Return the JSON schema of a configuration file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema | Config.model_json_schema(), indent=2) + "\n"


def readme_text() -> str:
    """Return the text of config/README.md."""
    schema = Config.model_json_schema()
    models = _named(schema, "$defs")
    key_paths = {"Config": "top level"} | dict(_key_paths(schema, models, ()))
    rows = [_section(path, models.get(name, schema), key_paths) for name, path in key_paths.items()]
    return "\n".join([OPENING, *rows])


def _key_paths(
    schema: Schema, models: Mapping[str, Schema], path: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield every model below a schema with the first key path that holds it, parents first."""
    seen: set[str] = set()
    for key, value in _named(schema, "properties").items():
        for name in _references(value):
            if name in seen:
                continue
            inner = list(_key_paths(models[name], models, (*path, key + _marker(value))))
            title = ".".join((*path, key + _marker(value))) + _kind(models[name])
            for model, key_path in [(name, title), *inner]:
                if model not in seen:
                    seen.add(model)
                    yield model, key_path


def _marker(schema: Schema) -> str:
    """Return how one entry of a list or of a mapping by name is written in a key path."""
    if schema.get("type") == "array":
        return "[]"
    return ".NAME" if "additionalProperties" in schema else ""


def _kind(model: Schema) -> str:
    kind = _named(model, "properties").get("kind", {}).get("const")
    return f" (kind {kind})" if kind else ""


def _references(schema: object) -> list[str]:
    """Return the names of the models a schema refers to, in order."""
    if isinstance(schema, Mapping):
        direct = [_name(schema)] if "$ref" in schema else []
        return direct + [
            n for k, v in schema.items() if k != "discriminator" for n in _references(v)
        ]
    return [n for item in schema for n in _references(item)] if isinstance(schema, list) else []


def _named(schema: Schema, key: str) -> dict[str, Schema]:
    """Return the schemas by name under a key."""
    value = schema.get(key)
    return value if isinstance(value, dict) else {}


def _listed(schema: Schema, *keys: str) -> list[Schema]:
    """Return the schemas under some keys, each of which holds a schema or a list of them."""
    values = [schema.get(key) for key in keys]
    flat = [entry for value in values for entry in (value if isinstance(value, list) else [value])]
    return [entry for entry in flat if isinstance(entry, Mapping)]


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _section(title: str, schema: Schema, key_paths: Mapping[str, str]) -> str:
    meaning = str(schema["description"]).split("\n\n")[0]
    head = "| key | type | unit and bounds | default | meaning |\n| --- | --- | --- | --- | --- |"
    required = schema.get("required")
    rows = [
        _row(key, value, isinstance(required, list) and key in required, key_paths)
        for key, value in _named(schema, "properties").items()
    ]
    return "\n".join([f"## {title}", "", meaning, "", head, *rows, ""])


def _row(key: str, schema: Schema, required: bool, key_paths: Mapping[str, str]) -> str:
    bounds = "; ".join(dict.fromkeys(_bounds(schema)))
    default = "required" if required else f"`{json.dumps(schema.get('default'))}`"
    cells = [f"`{key}`", _type(schema, key_paths), bounds, default, schema.get("description", "")]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _type(schema: Schema, key_paths: Mapping[str, str]) -> str:
    """Return the type of a value in words."""
    if "$ref" in schema:
        return f"keys of {key_paths[_name(schema)]}"
    if union := _listed(schema, "anyOf", "oneOf"):
        return " or ".join(_type(member, key_paths) for member in union)
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return ", ".join(f"`{value}`" for value in values)
    if schema["type"] == "array":
        return f"list of {_type(_listed(schema, 'items', 'prefixItems')[0], key_paths)}"
    if schema["type"] == "object":
        return f"name -> {_type(_listed(schema, 'additionalProperties')[0], key_paths)}"
    return TYPE_WORDS[str(schema["type"])]


TYPE_WORDS = {
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "string": "text",
}

BOUNDS = {
    "unit": "{}",
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "pattern": "`{}`",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def _bounds(schema: Schema) -> Iterator[str]:
    """Yield the unit and the bounds of a value and of the values inside it."""
    for key, wording in BOUNDS.items():
        if key in schema:
            yield wording.format(schema[key])
    for member in _listed(schema, "anyOf", "prefixItems", "items", "additionalProperties"):
        yield from _bounds(member)


def drifted(root: Path) -> list[Path]:
    """Return the generated files below `root` that differ from the models."""
    return [
        path
        for path, text in _texts().items()
        if not (root / path).is_file() or (root / path).read_text(encoding="utf-8") != text
    ]


def write(root: Path) -> None:
    """Write the generated files below `root`."""
    for path, text in _texts().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def _texts() -> dict[Path, str]:
    return {SCHEMA_PATH: schema_text(), README_PATH: readme_text()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files, or print those that have drifted; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m longrope.settings.schema", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write both files")
    action.add_argument("--check", action="store_true", help="fail if a file has drifted")
    if parser.parse_args(arguments).write:
        write(ROOT)
        return 0
    stale = drifted(ROOT)
    for path in stale:
        print(
            f"{path} differs from longrope/settings; run python -m longrope.settings.schema --write."
        )
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
