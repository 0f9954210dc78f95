"""`keras_kd.augment`: what makes views of images, each a function of (example, view, seed).

Example:

```python
augment = kd.augment.Deform(shift=2, rotation=10)
train_ds = kd.cache_teacher(teacher, (images, labels), views=4, augment=augment)
```
"""

from keras_kd.data.deform import Deform
from keras_kd.data.random_layers import RandomLayers
from keras_kd.data.random_views import Augmentation, random_bits

__all__ = ["Augmentation", "Deform", "RandomLayers", "random_bits"]
