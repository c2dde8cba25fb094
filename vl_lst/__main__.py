"""`python -m vl_lst` is `vl-lst`."""

import sys

from vl_lst.cli import main

sys.exit(main())
