"""Problems shared by the tests of guides: `import linear_gaussian`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
