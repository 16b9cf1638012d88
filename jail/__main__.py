"""``python -m jail``: the same as the command ``jail``."""

from jail.cli import main

raise SystemExit(main())
