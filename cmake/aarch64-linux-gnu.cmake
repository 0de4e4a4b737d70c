# Debian's cross compiler for AArch64, and what it builds run under qemu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
# Libraries of headers alone are this system's, behind all that the compiler brings.
set(CMAKE_CXX_FLAGS_INIT "-idirafter /usr/include")
