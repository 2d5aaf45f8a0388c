-- Taking is a move (law 2): ARGV = process, queue, how many, largest entry (bytes), largest answer (bytes).
-- Answer: {turn, 'cut' or '', positions and sizes of entries over the size ("3 5000 7 9000"), entry, …}: the head of the
-- private list. An entry over the size is told as an empty one; an answer over the size ends after what made it so.
local process, queue, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
local largest, most = tonumber(ARGV[4]), tonumber(ARGV[5])
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
frees()
local mine = P .. queue .. ':taken:' .. process
for _ = call('LLEN', mine) + 1, n do
  if not call('LMOVE', P .. queue, mine, 'LEFT', 'RIGHT') then break end
end
local turned = call('HGET', P .. 'Process:' .. process, 'turn:' .. queue) or '0'
local answer = { turned, '', '' }
local over, found, bytes = {}, 0, 0
local known = queue == 'Job_Queue' and call('EXISTS', P .. 'Recovered') == 1
local function suspect(entry) -- processes died with it in hand before: alone, it takes nobody else into suspicion
  local count = known and (call('HGET', P .. 'Recovered', redis.sha1hex(entry)) or ''):match('^%d+')
  return count and tonumber(count) >= 2
end
while found < n and bytes <= most do
  local some = call('LRANGE', mine, found, math.min(found + 25, n) - 1) -- not all at once: they may be large
  if #some == 0 then break end
  for _, entry in ipairs(some) do
    if bytes > most then break end
    if suspect(entry) then
      if found > 0 then n = found break end
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
if found < math.min(tonumber(ARGV[3]), call('LLEN', mine)) then answer[2] = 'cut' end
if found > 0 then call('HSET', P .. 'Process:' .. process, 'hand:' .. queue, turned .. ' ' .. found) end
answer[3] = table.concat(over, ' ')
return answer
