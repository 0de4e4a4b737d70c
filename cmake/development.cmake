# For terse's own programs: warnings, the instruction set, and the libraries that they, not the headers, use.
include(FetchContent)
find_package(Threads REQUIRED)

# The system's package, or else its pinned release.
macro(terse_development_package name)
  find_package(${name} QUIET)
  if(NOT ${name}_FOUND)
    FetchContent_Declare(${name} ${ARGN} GIT_SHALLOW TRUE SYSTEM)
    FetchContent_MakeAvailable(${name})
  endif()
endmacro()
terse_development_package(Catch2 GIT_REPOSITORY https://github.com/catchorg/Catch2.git GIT_TAG v2.13.10)
terse_development_package(nlohmann_json GIT_REPOSITORY https://github.com/nlohmann/json.git GIT_TAG v3.11.2)
terse_development_package(CLI11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11.git GIT_TAG v2.3.1)
if(DEFINED Catch2_SOURCE_DIR)
  list(APPEND CMAKE_MODULE_PATH ${Catch2_SOURCE_DIR}/contrib)
endif()

# What all of terse's own programs share: the library, the warnings and the instruction set.
set(warnings -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)
add_library(terse-development INTERFACE)
target_link_libraries(terse-development INTERFACE terse::terse Threads::Threads)
target_compile_options(terse-development INTERFACE ${warnings} $<$<BOOL:${TERSE_ARCH}>:-march=${TERSE_ARCH}>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Garbage is not collected below a gigabyte: a tenth of the time that gcc takes.
  target_compile_options(terse-development INTERFACE --param=ggc-min-heapsize=1000000)
endif()
if(TERSE_EMULATE_AVX512)
  target_compile_options(terse-development INTERFACE
    "SHELL:-include ${PROJECT_SOURCE_DIR}/tests/emulated_avx512.hpp" -Wno-psabi)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13 AND
   CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64" AND NOT TERSE_EMULATE_AVX512)
  # Eigen uses those of gcc's AVX-512 intrinsics that it warns of; terse's headers avoid them.
  target_compile_options(terse-development INTERFACE "SHELL:-include ${PROJECT_SOURCE_DIR}/cmake/intrinsics.hpp")
endif()
if(TARGET terse-dispatch)
  target_compile_options(terse-dispatch PRIVATE ${warnings})
endif()
set(CMAKE_CXX_EXTENSIONS OFF)
