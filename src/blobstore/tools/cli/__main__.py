"""`python -m blobstore.tools.cli`."""

import sys

from blobstore.tools.cli.main import main

sys.exit(main())
