# The rooms of the library and what each may include: the one place where the directions are written.
#
# Read by cmake/OutboardRooms.cmake, which makes them target dependencies, and by tests/lint/check_includes.py,
# which reads every include. Keep one `set(OUTBOARD_MAY_INCLUDE_room names...)` a line: the lint parses these lines.
# A room is listed below the rooms it may include. `devices` stands for every device folder,
# `drivers` for the files driver* in there.

set(OUTBOARD_MAY_INCLUDE_base)
set(OUTBOARD_MAY_INCLUDE_memory base)
set(OUTBOARD_MAY_INCLUDE_pci memory base)
set(OUTBOARD_MAY_INCLUDE_virtio memory base)
set(OUTBOARD_MAY_INCLUDE_storage memory base)
set(OUTBOARD_MAY_INCLUDE_vfio_abi base)
set(OUTBOARD_MAY_INCLUDE_vfio vfio_abi pci memory base)
set(OUTBOARD_MAY_INCLUDE_vfio_user vfio_abi pci memory base)
set(OUTBOARD_MAY_INCLUDE_virtio_pci virtio pci memory base)
set(OUTBOARD_MAY_INCLUDE_journal virtio memory base)
set(OUTBOARD_MAY_INCLUDE_vduse journal virtio memory base)
set(OUTBOARD_MAY_INCLUDE_devices virtio pci storage memory base)
set(OUTBOARD_MAY_INCLUDE_drivers virtio pci memory base)
set(OUTBOARD_MAY_INCLUDE_targets devices vduse journal virtio_pci vfio_user vfio vfio_abi storage virtio pci memory base)
set(OUTBOARD_MAY_INCLUDE_testing virtio pci storage memory base)

# From the bottom up; the order in which the folders are added.
set(OUTBOARD_ROOMS base memory pci virtio storage vfio_abi vfio vfio_user virtio_pci journal vduse devices targets testing)
