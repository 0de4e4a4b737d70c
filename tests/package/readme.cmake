# The README shows the examples as they are, and what they print.
# cmake -DSOURCE=<project> -DPROGRAM=<path of the source file> -DRUN=<built program> -P readme.cmake
file(READ ${SOURCE}/README.md readme)
file(READ ${SOURCE}/${PROGRAM} code)
execute_process(COMMAND ${RUN} OUTPUT_VARIABLE output RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${RUN} failed: ${failed}")
endif()
foreach(block IN ITEMS "```cpp\n${code}```" "```text\n${output}```")
  string(FIND "${readme}" "${block}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "README.md does not hold this block:\n${block}")
  endif()
endforeach()
