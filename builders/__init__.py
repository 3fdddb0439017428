"""From config to objects, a file a section; nothing else turns names into code.

Data flows one way: flags, config, `build(config)`, pure functions, jitted step. A section is the
keyword arguments of one constructor. `experiment.build` calls the others; `guidance`, `restoration`
and `editing` add to an experiment what its samples are to agree with. `checks` refuses what no run
can have.
"""
