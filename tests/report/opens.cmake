# Opens REPORT in CHROMIUM without a window: it must draw, and hold its headings.
if(NOT CHROMIUM)
  message("no Chromium: skipped")
  return()
endif()
file(REMOVE_RECURSE ${SCRATCH})
file(MAKE_DIRECTORY ${SCRATCH})
set(options --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
  --disable-sync --hide-scrollbars --window-size=1200,2400 --user-data-dir=${SCRATCH}/profile)

execute_process(COMMAND ${CHROMIUM} ${options} --screenshot=${SCRATCH}/report.png file://${REPORT}
  RESULT_VARIABLE result ERROR_VARIABLE said OUTPUT_QUIET TIMEOUT 50)
if(NOT result EQUAL 0 OR NOT EXISTS ${SCRATCH}/report.png)
  message(FATAL_ERROR "no picture of ${REPORT}: ${result} ${said}")
endif()
file(SIZE ${SCRATCH}/report.png size)
if(size LESS 20000)
  message(FATAL_ERROR "the picture is empty: ${size} bytes")
endif()

execute_process(COMMAND ${CHROMIUM} ${options} --dump-dom file://${REPORT}
  RESULT_VARIABLE result ERROR_VARIABLE said OUTPUT_VARIABLE dom TIMEOUT 50)
foreach(heading IN ITEMS "<h1>What token compression keeps</h1>" "<h2>KV-cache eviction</h2>" "<h2>Visual tokens</h2>"
    "<h3>What is left of one document</h3>" "<h3>What is left of the images</h3>" "</footer>")
  string(FIND "${dom}" "${heading}" at)
  if(at EQUAL -1)
    message(FATAL_ERROR "the page lacks ${heading}: ${result} ${said}")
  endif()
endforeach()
