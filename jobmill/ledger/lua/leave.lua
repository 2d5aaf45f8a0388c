-- A process leaves in peace: ARGV = process, then queues. What it took and did not deal with goes back to the head.
-- It stays known for a day, as a dead one does: a move that was under way may still fill its lists.
-- Answer: how many entries are still in its lists (call again until 0).
local process, left = ARGV[1], 0
frees()
for i = 2, #ARGV do
  local mine = P .. ARGV[i] .. ':taken:' .. process
  for _ = 1, 250 do
    if not call('LMOVE', mine, P .. ARGV[i], 'RIGHT', 'LEFT') then break end
  end
  left = left + call('LLEN', mine)
end
if left == 0 then call('HSET', P .. 'Process:' .. process, 'evicted', NOW, 'left', NOW) end
return left
