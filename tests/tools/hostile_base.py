# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a server can do wrong: one class each, its name is the case's name.

hit() marks the moment at which it does. A case that only shows itself to
requests of one kind leaves the others to the honest session. Writes reach the
disk file whenever the case says to the client that they did, and never else:
so that file is the judge of what may be called clean.
"""
from nbd_session import Session

CASES = {}


class Hostile(Session):
    hits = 0  # of the class: over all connections

    def __init_subclass__(cls, is_case=True):
        super().__init_subclass__()
        name = ''.join('-' + c.lower() if c.isupper() else c
                       for c in cls.__name__).lstrip('-')
        if is_case:
            CASES[name] = cls

    def hit(self):
        type(self).hits += 1
        self.told()
