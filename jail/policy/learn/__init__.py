"""The smallest policy that lets a program work, learned by watching it: ``jail policy learn``.

The program runs under a filter that asks for every call but those of ``table.FLOOR``. ``watch.py``
answers as a given policy (the *ceiling*) decides, and notes what was asked; ``rules.py`` makes a
policy of the notes, ``text.py`` a file of that.
"""
