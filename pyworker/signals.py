"""Signals that gunicorn takes for reloading and scaling, which a worker must not do."""

from __future__ import annotations

import signal

#: Each would make a second process of the same identity, or end or stop the only one: SIGHUP and SIGUSR2
#: start another, SIGTTIN and SIGTTOU change how many there are (and stop a process without a handler),
#: and SIGWINCH ends all of them under a daemonized master. SIGHUP is what a closing terminal sends.
REFUSED_SIGNALS = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2, signal.SIGWINCH)
