"""The command line: one file per verb (layer 9, above everything but the package's own ``__init__``).

What: ``cli`` is the group ``mproc-go``, with a module for each of its verbs; ``exits`` says how each error ends a
command, ``which`` what runtime it is about; ``analysis`` and ``pipeline`` are the work of the demo, of which
``docs/examples/analyse.py`` is the twin.

May import: anything below it, by the public names of ``mproc_go`` where there is one; ``click`` and ``rich``, which
nobody else imports.

May never: be imported by the runtime, a worker or the supervisor. (A worker of the demo imports ``analysis`` and
``pipeline``, because goroutines of the demo are functions of theirs; hence these two import neither click nor rich.)

Reading order: cli, exits, run; which, start, stop, ps; analysis, pipeline, demo.
"""
