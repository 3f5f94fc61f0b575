"""`python -m medssl` is the command `medssl`."""

import signal

usual = signal.getsignal(signal.SIGINT)
if usual is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules load, Ctrl-C ends the program without a traceback

from medssl.cli import main  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, usual)
    main()
