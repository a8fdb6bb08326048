"""``python -m gemoclap_sb.cli`` is the command `gemoclap`."""

import sys

from gemoclap_sb.cli.parser import main

sys.exit(main())
