"""Everything that the finished issues must show, line by line; see `accept/`.

python bench/accept.py [--list] [--only ID]... [--again] [--no-fresh-clone]
"""

import sys

from accept.main import main

if __name__ == "__main__":
    sys.exit(main())
