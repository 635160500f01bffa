"""The model card: what a folder holds, in the form that the Hugging Face hub reads."""

import json

from largescale.models.sharing.folder import Contents


def card(contents: Contents, license: str = "other") -> str:
    """The text of README.md."""
    settings, config = contents.settings, contents.network.config
    rows = {
        "backbone": config.backbone,
        "pooling": config.pooling,
        "dimensions": settings.dim,
        "compared by": contents.network.metric,
        "pictures": f"{settings.fit}, {settings.size} pixels, {settings.interpolation}",
        "scales": ", ".join(f"{scale:.3g}" for scale in settings.scales),
        "whitening": settings.whitening,
        "numbers": settings.precision,
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    rest = {name: value for name, value in contents.about.items() if name != "scores"}
    about = json.dumps(rest, indent=1, ensure_ascii=False, default=str)
    return f"""---
license: {license}
library_name: largescale
pipeline_tag: image-feature-extraction
tags: [image-retrieval]
---
# {config.backbone}, {config.pooling}

| | |
|---|---|
{table}
```python
import largescale

model = largescale.load("FOLDER")
rows = model.embed(["a.jpg", "b.jpg"])
```

{_scored(contents)}## Where it comes from

```json
{about}
```
"""


def _scored(contents: Contents) -> str:
    """A table of the scores, where there are any."""
    scores = contents.about.get("scores", {})
    lines = [
        f"| {name} | {x['value']:.4f} | {x['low']:.4f} to {x['high']:.4f} | `{x['protocol']}` |" for name, x in scores.items()
    ]
    head = ["## Scores", "", "| protocol and measure | | 95 % | hash of the protocol |", "|---|---|---|---|"]
    return "\n".join([*head, *lines, "", ""]) if lines else ""
