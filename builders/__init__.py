"""From config to objects, one file for each section; nothing else turns names into code.

Data flows one way: flags, config, `build(config)`, pure functions, jitted step. A section has the
keyword arguments of one constructor. `experiment.build` calls the builders of the sections.
`guidance`, `restoration` and `editing` add conditions on samples to an experiment. `checks` refuses
invalid values.
"""
