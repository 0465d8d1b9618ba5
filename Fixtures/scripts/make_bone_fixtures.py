"""Makes Fixtures/methods/bone*: adapters of MiSS's first name, by the last releases of PEFT that wrote it.

Usage: python make_bone_fixtures.py [OUTPUT]   (default: ../methods beside this file)

Needs peft==0.15.2 in place of the version in requirements.txt, whose other versions stay.
"""

import make_method_fixtures
import peft

if __name__ == "__main__":
    for name, settings in (("bone", dict(r=4)), ("bone-bat", dict(r=4, init_weights="bat", targets=["q_proj", "v_proj"]))):
        make_method_fixtures.on_llama(name, peft.BoneConfig, **settings)
