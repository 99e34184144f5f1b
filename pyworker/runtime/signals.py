"""Signals by which gunicorn reloads or scales, which a worker must not do."""

from __future__ import annotations

import signal

#: Each would start a second process with the same identity, or end or stop the only one: SIGHUP and SIGUSR2
#: start another, SIGTTIN and SIGTTOU change the number of processes (and stop one that has no handler), and
#: SIGWINCH ends all of them under a daemonized master. A closing terminal sends SIGHUP.
REFUSED_SIGNALS = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2, signal.SIGWINCH)
