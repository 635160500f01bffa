"""largescale: distributed training, mining and evaluation of image-retrieval networks.

model = largescale.load("runs/first/model")
rows = model.embed(["a.jpg", "b.jpg"])
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
