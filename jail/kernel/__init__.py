"""System calls under the kernel's own names and argument order; the only ctypes of the host side.

``process`` clones, drops and kills; ``mount`` builds trees; ``file`` opens paths that a jail
can change.
"""
