"""What keeps a teacher head from settling on few prototypes."""

from sslkit.centerings.balance import Balance as Balance
from sslkit.centerings.base import Centering as Centering
from sslkit.centerings.mean import Mean as Mean
from sslkit.centerings.off import Off as Off
