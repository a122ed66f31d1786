"""AutoAttack: attacks in sequence on the images that are still classified correctly.

`evaluation.py` is the sequence, `versions.py` says what runs, `survivors.py` drives one attack over
the images, `confirm.py` checks what it found, `guards.py` warns of what makes a result unreliable.
"""

from jax_robust.attacks.autoattack.evaluation import AutoAttackResult as AutoAttackResult
from jax_robust.attacks.autoattack.evaluation import autoattack as autoattack
from jax_robust.attacks.autoattack.evaluation import make_autoattack as make_autoattack
from jax_robust.attacks.autoattack.versions import STAGES as STAGES
from jax_robust.attacks.autoattack.versions import STANDARD as STANDARD
from jax_robust.attacks.autoattack.versions import VERSIONS as VERSIONS
from jax_robust.attacks.autoattack.versions import Settings as Settings
from jax_robust.attacks.autoattack.versions import Stage as Stage
from jax_robust.attacks.autoattack.versions import make_stages as make_stages
from jax_robust.attacks.autoattack.versions import read_version as read_version
