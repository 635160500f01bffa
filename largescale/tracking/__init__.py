"""What a run measures. `log.jsonl` is the record; W&B, TensorBoard and MLflow mirror it.

A mirror is brought up to the record whenever it is opened, so that none lacks what was measured before an interruption.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
