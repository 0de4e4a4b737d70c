# What terse's headers need, for this build and, installed beside the package's config, for its users:
# Eigen and xsimd, from the system or else, in this build, from their pinned releases.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL TRUE)  # an including project (add_subdirectory) sees them too
find_package(Eigen3 3.4 QUIET NO_MODULE)
# xsimd's headers alone: Debian 12's target for 8.1 links a library that its package does not bring.
find_path(TERSE_XSIMD_INCLUDE_DIR xsimd/xsimd.hpp)

if(NOT TARGET Eigen3::Eigen OR NOT TERSE_XSIMD_INCLUDE_DIR)
  if(DEFINED CMAKE_FIND_PACKAGE_NAME)
    set(${CMAKE_FIND_PACKAGE_NAME}_FOUND FALSE)
    set(${CMAKE_FIND_PACKAGE_NAME}_NOT_FOUND_MESSAGE "terse needs Eigen 3.4 and xsimd 8.1 or newer")
    return()
  endif()
  include(FetchContent)
endif()

if(NOT TARGET Eigen3::Eigen)
  FetchContent_Declare(eigen GIT_REPOSITORY https://gitlab.com/libeigen/eigen.git GIT_TAG 3.4.0 GIT_SHALLOW TRUE
    SOURCE_SUBDIR headers-alone)
  FetchContent_MakeAvailable(eigen)
  add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
  target_include_directories(Eigen3::Eigen INTERFACE ${eigen_SOURCE_DIR})
endif()

if(NOT TERSE_XSIMD_INCLUDE_DIR)
  FetchContent_Declare(xsimd GIT_REPOSITORY https://github.com/xtensor-stack/xsimd.git GIT_TAG 8.1.0 GIT_SHALLOW TRUE
    SOURCE_SUBDIR headers-alone)
  FetchContent_MakeAvailable(xsimd)
  set(TERSE_XSIMD_INCLUDE_DIR ${xsimd_SOURCE_DIR}/include)
endif()
if(NOT TARGET terse::xsimd)
  add_library(terse::xsimd INTERFACE IMPORTED GLOBAL)
  target_include_directories(terse::xsimd INTERFACE ${TERSE_XSIMD_INCLUDE_DIR})
endif()
