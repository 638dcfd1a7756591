"""What a device tells of itself: memory, load, temperatures, power. From tegrastats, else sysfs, else /proc."""
