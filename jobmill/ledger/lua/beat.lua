-- A heartbeat: ARGV = process, lease (ms), progress, then the ids whose launch it has under way.
-- Answer: EVICTED, or the ids with a wish and the wish: id, wish, …
local process, lease = ARGV[1], tonumber(ARGV[2])
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
frees()
call('ZADD', P .. 'Processes', NOW, process)
call('HSET', P .. 'Process:' .. process, 'progress', ARGV[3])
local wishes = {}
for i = 4, #ARGV do
  local j = read(ARGV[i])
  if j and j.state == 'starting' and j.owner == process then
    call('ZADD', P .. 'Starting_Queue' .. lane(j.system), NOW + lease, j.id)
    if j.wish then wishes[#wishes + 1] = j.id; wishes[#wishes + 1] = j.wish end
  end
end
return wishes
