"""Uses a terminal the way a person does. Arguments: the command line of `nameward run --`."""

import os
import pty
import select
import signal
import sys
import time


class Session:
    def __init__(self, *words):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            # Who starts tests in the background has them ignored, and so would all that these start.
            for ignored in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(ignored, signal.SIG_DFL)
            os.execvp(words[0], words)
        self.text = ""

    def until(self, wanted):
        end = time.monotonic() + 20
        while wanted not in self.text:
            if not select.select([self.terminal], [], [], max(0, end - time.monotonic()))[0]:
                raise SystemExit(f"never saw {wanted!r} in {self.text!r}")
            try:
                self.text += os.read(self.terminal, 4096).decode(errors="replace")
            except OSError:
                raise SystemExit(f"ended before {wanted!r}: {self.text!r}")
        self.text = self.text.split(wanted, 1)[1]

    def type(self, text):
        os.write(self.terminal, text.encode())

    def status(self):
        while True:
            try:
                if not os.read(self.terminal, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


run = sys.argv[1:]

session = Session(*run, "sh", "-c", "echo rea''dy; exec sleep 100")
session.until("ready")
session.type("\x03")
print(f"ctrl-c={session.status()}")

# The job says when it has the terminal: before that, keys would go to the shell.
job = "sh -c 'echo rea\"\"dy; exec sleep 100'\n"
session = Session(*run, "bash", "--norc", "-i")
session.type(job)
session.until("ready")
session.type("\x1a")
session.until("Stopped")
session.type("bg; jobs\n")
session.until("Running")
session.type("kill %1; wait; echo go''ne\n")
session.until("gone")
print("job-control=ok")
session.type(job)
session.until("ready")
session.type("\x03")
session.type("echo ali''ve\n")
session.until("alive")
print("ctrl-c-of-a-job=ok")
session.type("exit\n")
session.status()

# A shell outside: after an interactive shell inside, it has the terminal again.
session = Session("bash", "--norc", "-i")
session.type(" ".join(run) + " bash --norc -i\n")
session.type("echo ins''ide $PPID\n")
session.until("inside 1")
session.type("exit\n")
session.type("echo out''side; sleep 0.1; echo st''ill\n")
session.until("outside")
session.until("still")
print("terminal=back")
session.type("exit\n")
session.status()
