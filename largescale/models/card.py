"""The model card: what a folder holds, in the form that the Hugging Face hub reads."""

import json

from largescale.models.folder import Contents


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
    about = json.dumps(dict(contents.about), indent=1, ensure_ascii=False, default=str)
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

## Where it comes from

```json
{about}
```
"""
