include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package ${CMAKE_INSTALL_DATADIR}/cmake/terse)
configure_package_config_file(cmake/terse-config.cmake.in terse-config.cmake INSTALL_DESTINATION ${package})
if(NOT TERSE_DISPATCH)
  set(headers_alone ARCH_INDEPENDENT)
endif()
write_basic_package_version_file(terse-config-version.cmake COMPATIBILITY SameMinorVersion ${headers_alone})
configure_file(cmake/terse.pc.in terse.pc @ONLY)

# The targets' dependencies are imported in both worlds, so they are exported by name.
install(DIRECTORY include/terse TYPE INCLUDE)
install(TARGETS terse EXPORT terse-targets)
install(EXPORT terse-targets NAMESPACE terse:: DESTINATION ${package})
install(FILES ${PROJECT_BINARY_DIR}/terse-config.cmake ${PROJECT_BINARY_DIR}/terse-config-version.cmake
  cmake/terse-dependencies.cmake DESTINATION ${package})
install(FILES ${PROJECT_BINARY_DIR}/terse.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)
