"""A synthetic source in the competition's own layout, seeded: an abdominal MR look-alike.

Three ways to make one: :func:`write_phantom` draws patients, days and geometries;
:func:`write_phantom_like` draws anatomy for the scans of a listing; :func:`paint_phantom` paints
bodies around given masks. The same seed gives the same bytes, whatever the number of processes.
:func:`draw_scan` gives a scan with its tissues and masks, for a look inside.
"""
