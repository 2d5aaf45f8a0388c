-- Taking is a move (law 2): ARGV = process, queue, how many, largest entry (bytes).
-- Answer: {turn, entry, …}: the head of the private list; an entry over the size is told as "\0<bytes>".
local process, queue, n, largest = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
frees()
local mine = P .. queue .. ':taken:' .. process
for _ = call('LLEN', mine) + 1, n do
  if not call('LMOVE', P .. queue, mine, 'LEFT', 'RIGHT') then break end
end
local answer = { call('HGET', P .. 'Process:' .. process, 'turn:' .. queue) or '0' }
for i, entry in ipairs(call('LRANGE', mine, 0, n - 1)) do
  answer[i + 1] = #entry <= largest and entry or ('\0' .. #entry)
end
return answer
