"""Whatever can teach, seen as one `keras.Model`.

Example:

```python
both = kd.teachers.Ensemble([teacher, second], temperature=4.0)
distiller = kd.Distiller(both, student, kd.losses.SoftTargets(temperature=4.0))
```
"""

from keras_kd.teachers.ensemble import Ensemble as Ensemble
from keras_kd.teachers.function import from_function as from_function
from keras_kd.teachers.group_classes import GroupClasses as GroupClasses
from keras_kd.teachers.preprocessed import Preprocessed as Preprocessed
from keras_kd.teachers.saved_model import from_saved_model as from_saved_model
from keras_kd.teachers.several import Several as Several
