-- Taking is a move (law 2): ARGV = process, queue, how many, largest entry (bytes), largest answer (bytes), skip.
-- Answer: {turn, 'cut' or '', positions and sizes of entries over the size ("3 5000 7 9000"), entry, …}: the head of the
-- private list, after the first `skip`, which the process has read already. An entry over the size is told as an empty
-- one; an answer over the size ends after what made it so. Of Job_Queue it is noted how many entries are in hand, which
-- may be the death of who reads them; where a single one was taken no note is needed, and nothing is written.
local process, queue, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local largest, most, skip = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
frees()
local mine = P .. queue .. ':taken:' .. process
local jobs = queue == 'Job_Queue'
local turned = call('HGET', P .. 'Process:' .. process, 'turn:' .. queue) or '0'
local answer = { turned, '', '' }
local over, found, bytes, have = {}, 0, 0, call('LLEN', mine)
local known = jobs and call('EXISTS', P .. 'Recovered') == 1
local function suspect(entry) -- processes died with it in hand before: alone, it takes nobody else into suspicion
  local count = known and (call('HGET', P .. 'Recovered', redis.sha1hex(entry)) or ''):match('^%d+')
  return count and tonumber(count) >= 2
end
local function chunk(from, size) -- not all at once: they may be large
  if from < have then return call('LRANGE', mine, from, from + size - 1) end
  local some = call('LRANGE', P .. queue, 0, size - 1)
  if #some > 0 then
    call('RPUSH', mine, unpack(some))
    call('LTRIM', P .. queue, #some, -1)
    have = have + #some
  end
  return some
end
while found < n and bytes <= most do
  local some = chunk(skip + found, math.min(25, n - found))
  if #some == 0 then break end
  for _, entry in ipairs(some) do
    if bytes > most then break end
    if suspect(entry) then
      if skip + found > 0 then n = found break end
      n = 1
    end
    if found >= n then break end
    if #entry > largest then
      over[#over + 1] = found .. ' ' .. #entry
      entry = ''
    end
    found = found + 1
    bytes = bytes + #entry
    answer[3 + found] = entry
  end
end
if found < tonumber(ARGV[3]) and (have > skip + found or call('EXISTS', P .. queue) == 1) then answer[2] = 'cut' end
if jobs and found > 0 and have > 1 then
  call('HSET', P .. 'Process:' .. process, 'hand:' .. queue, turned .. ' ' .. skip + found)
end
answer[3] = table.concat(over, ' ')
return answer
