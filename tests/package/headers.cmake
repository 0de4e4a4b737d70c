# Every header compiles alone, without exceptions and RTTI.
# cmake -DINCLUDE=<include> -DCOMPILER=<c++> "-DFLAGS=<flags>" -DSCRATCH=<folder> -P headers.cmake
file(GLOB_RECURSE headers RELATIVE ${INCLUDE} ${INCLUDE}/terse/*.hpp)
list(FILTER headers EXCLUDE REGEX "core/openmp.hpp$")  # needs -fopenmp; the tests compile it
list(LENGTH headers count)
if(count EQUAL 0)
  message(FATAL_ERROR "no header was found under '${INCLUDE}'")
endif()

file(MAKE_DIRECTORY ${SCRATCH})
separate_arguments(flags UNIX_COMMAND "${FLAGS}")
set(broken "")
foreach(header IN LISTS headers)
  file(WRITE ${SCRATCH}/alone.cpp "#include <${header}>\n")
  execute_process(COMMAND ${COMPILER} -std=c++20 -fsyntax-only -fno-exceptions -fno-rtti ${flags} ${SCRATCH}/alone.cpp
    RESULT_VARIABLE failed ERROR_VARIABLE output)
  if(failed)
    string(APPEND broken "${header}:\n${output}\n")
  endif()
endforeach()
if(broken)
  message(FATAL_ERROR "headers that do not compile alone:\n${broken}")
endif()
message(STATUS "${count} headers compile alone")
