"""The benchmark ``robot-world``: what is asked of held-out simulated worlds, and how it counts.

``worlds`` says which worlds and what they show, ``plan`` what is asked under which conditions,
``reading`` makes the items, ``scoring`` and ``tables`` count, ``frozen`` holds version 1 fast.
"""
