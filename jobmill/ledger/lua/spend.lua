-- Queries that were put to an endpoint: ARGV = system, how many, its budget a minute. The hash Queries holds for each
-- system <minute> <queries in it> <in the one before> <budget>. Answer: how many there were in the last 60 s.
local key, system, count = P .. 'Queries', ARGV[1], tonumber(ARGV[2])
local minute = math.floor(NOW / 60000)
local was, these, before = (call('HGET', key, system) or ''):match('^(%d+) (%d+) (%d+)')
was, these, before = tonumber(was), tonumber(these) or 0, tonumber(before) or 0
if was ~= minute then
  before = was == minute - 1 and these or 0
  these = 0
end
these = these + count
if count > 0 then
  frees()
  call('HSET', key, system, string.format('%d %d %d %s', minute, these, before, ARGV[3]))
end
return string.format('%.2f', these + before * (1 - (NOW % 60000) / 60000))
